"""The reader of PDF files: lines from the page, columns, running lines, paragraphs."""
