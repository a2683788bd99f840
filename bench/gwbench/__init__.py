# SPDX-License-Identifier: GPL-2.0-or-later
"""What bench/vs-qemu is made of."""
