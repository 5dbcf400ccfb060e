"""Self-contained HTML pages: one report, one run over its checkpoints, two or more runs against each other. Torch-free.

A page asks for nothing from outside, runs no script, and shows every text as text.
"""

from evals.page.comparison import comparison_page
from evals.page.report import report_page
from evals.page.run import run_page

__all__ = ["comparison_page", "report_page", "run_page"]
