"""Preference data of others: pairs and rated answers read into samples, and written for other trainers."""
