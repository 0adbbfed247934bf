"""The sweep file: its schema, how it is read, and errors that name file, line and setting."""
