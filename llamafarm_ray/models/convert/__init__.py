"""Conversion of models between formats, and the measurement of a converted model against its source."""
