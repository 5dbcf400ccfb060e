"""Agreement with human similarity judgements: two-alternative forced choice (2AFC) on triplets."""
