"""Corpora, trainings, scores, tables and inspection around the plugin, which never imports this."""
