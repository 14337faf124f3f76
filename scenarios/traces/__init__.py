"""Loaders of public trace formats, their statistics, and conversion between them.

`load` reads a file of any format in `FORMATS`, `stats.stats` measures it, `convert.convert`
writes it in another format. Loaders refuse what is wrong by file and line, and count in
`Trace.notes` what they changed; nothing is skipped in silence.
"""
