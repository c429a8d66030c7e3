"""Trains the arms of a sweep and keeps what they measured."""
