"""Scorers: metrics of generated images, each with its sample count and its 95 % confidence interval.

A score is made in this order:

- `catalogue` makes a `scorer.Scorer` from its settings in the sweep file.
- `Scorer.load` reads its weights, `Scorer.measure` turns a batch of images and their `Request`s into
  numbers per image, `Scorer.summarise` turns the numbers of all images into `score.Score`s.
- The scorers: `attributes`, `fidelity` and `removal` judge images of the miniature world (their shared
  part is `judge_scorer`); `clip`, `hpsv2_score` (with `hpsv2_package`) and `inception` judge any images.
- `aggregation` and `distribution` compute scores from the numbers per image.
- `teacher_gallery` is a command that scores the shipped teachers.

To add a scorer:

1. Write `scorers/<name>.py` with a subclass of `Scorer`. Keep `summarise` free of weights: it runs in
   another process than `measure`, on what that returned.
2. Add its name and options to `settings/scorers.py`: `OPTIONS`, the `Literal` and the fields of
   `ScorerSettings`, and `MINIATURE_SCORERS` if it judges images of the miniature world only.
3. Return it from `catalogue.make_scorer`; import its module there, so that no other scorer pays for it.
4. Under `infer` it runs now. To run it while a student trains, or to rank trials by it, add it to the
   lists of scorers and of ranking metrics in `orchestrator/config/evaluation_schema.py` (and a display
   name to `ranking.NAMES`).
5. Test it against an independent implementation, and that order and batches do not change its values.
"""
