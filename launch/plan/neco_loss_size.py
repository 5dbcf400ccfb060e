"""Operations and bytes of pineco.kernels.neco_loss, which is not imported here: it needs torch."""

from __future__ import annotations

import math

PART = (
    1 << 25
)  # bytes of the comparators' shares and gains of the rows that are sorted at once, and of a kernel's scratch
IN_REGISTERS = 128  # wires of a bitonic network, at most; larger and odd-even ones keep their vectors in memory
COMPARATOR = 4 + 4 + 6  # operations on one vector: the teacher's, the student's, and back


def comparators(network: str, wires: int) -> int:
    """Bitonic: log2 n (log2 n + 1) n / 4 where n is a power of two, else those of the next one that meet `wires`.

    Odd-even: n (n - 1) / 2.
    """
    if network == "odd_even":
        return wires * (wires - 1) // 2
    bits = (wires - 1).bit_length()
    used = range((1 << bits) - wires, 1 << bits)
    return sum((bits - bit) * sum(not wire >> bit & 1 for wire in used) for bit in range(bits))


def loss_flops(network: str, rows: int, references: int, width: int) -> int:
    """Of a loss and its gradient: 14 R M C for C comparators, and 6 R M D for the similarities.

    Each of the M unit vectors of a row passes every comparator; similarities are made for teacher and student, and the
    student's have a gradient.
    """
    return rows * references * (COMPARATOR * comparators(network, references) + 3 * 2 * width)


def scratch_bytes(network: str, rows: int, references: int) -> int:
    """That the kernels need for a while, beside what autograd keeps.

    Shares of teacher and student and gains of the student are 12 bytes a place for a comparator. Where the next part of
    the rows begins, a fourth such tensor is there; where vectors are in memory, their scratch is more than that. Sorted
    values and their gradient are 12 M a row.
    """
    bits = (references - 1).bit_length()
    layers = references if network == "odd_even" else bits * (bits + 1) // 2
    shares = 4 * layers * (1 << bits >> 1)  # of one row
    parts = math.ceil(rows / max(1, PART // max(1, 3 * shares)))
    at_once = math.ceil(rows / max(1, parts))
    in_memory = network == "odd_even" or references > IN_REGISTERS
    tensors = 4 if parts > 1 and not in_memory else 3
    return at_once * (tensors * shares + 12 * references) + PART * in_memory
