"""The sweep file: its schema, its reader, and errors that name file, line and setting."""
