"""Listeners: they are told what happened and never change it."""
