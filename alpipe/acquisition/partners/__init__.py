"""Batch partners: how a batch is made of the scores of a strategy, one module each."""
