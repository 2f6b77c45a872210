"""HTML reports: one file each, with style and pictures inside, that ask for nothing from a network."""

from llamafarm_ray.pages.axis import round_step, round_ticks
from llamafarm_ray.pages.bars import Bar, bars, columns
from llamafarm_ray.pages.page import asset, bullets, escaped, header, page, tiles, write_page
from llamafarm_ray.pages.units import duration

__all__ = [
    "Bar",
    "asset",
    "bars",
    "bullets",
    "columns",
    "duration",
    "escaped",
    "header",
    "page",
    "round_step",
    "round_ticks",
    "tiles",
    "write_page",
]
