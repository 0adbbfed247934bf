"""Settings of the objectives: a subclass of `TrainSettings` for each, and their names in a sweep file.

- `pgsb`, `boot`: one objective each; both add to `guided`, the settings of a teacher that is guided.
- `terms`: losses that an objective adds to the student's.
- `catalogue`: from the values in a sweep file to the class and values of one objective.
"""
