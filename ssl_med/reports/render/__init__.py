"""One report as HTML, Markdown, LaTeX and CSV."""
