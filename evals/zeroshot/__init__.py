"""Zero-shot classification, multilabel classification and retrieval by prompts, in one pass over each data set."""
