"""Dashboards, alerts and reference pages, generated from the catalogue in semconv."""
