"""Readers of office documents: text (DOCX, ODT, RTF), slides (PPTX) and sheets (XLSX, XLS, ODS)."""
