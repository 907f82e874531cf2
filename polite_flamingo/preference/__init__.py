"""Preference alignment: answers sampled and rated, pairs made of them, losses, the auditor, people's votes."""
