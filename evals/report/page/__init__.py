"""Self-contained HTML pages: one report, one run over its checkpoints, two or more runs against each other. Torch-free.

A page asks for nothing from outside, runs no script, and shows every text as text.
"""

from pineco.evals.report.page.comparison import comparison_page
from pineco.evals.report.page.report import report_page
from pineco.evals.report.page.run import run_page

__all__ = ["comparison_page", "report_page", "run_page"]
