# SPDX-License-Identifier: GPL-2.0-or-later
"""What the end-to-end tests are made of: QEMU guests, networks, and proofs."""
