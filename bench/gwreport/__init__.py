# SPDX-License-Identifier: GPL-2.0-or-later
"""What bench/report is made of."""
