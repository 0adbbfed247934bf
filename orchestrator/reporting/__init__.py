"""Pages, tables, figures and contact sheets."""
