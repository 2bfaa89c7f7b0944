"""The dashboard: pages for people, over control's verbs and nothing else."""
