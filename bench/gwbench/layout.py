# SPDX-License-Identifier: GPL-2.0-or-later
"""The numbers of bench/guest/layout.h, by the names they have there."""

import pathlib
import re

HEADER = pathlib.Path(__file__).resolve().parents[1] / "guest" / "layout.h"
_DEFINE = re.compile(r"^#define\s+([A-Z_]+)\s+(0x[0-9a-f]+|[0-9]+)\b", re.MULTILINE)

globals().update((name, int(value, 0))
                 for name, value in _DEFINE.findall(HEADER.read_text()))
