"""The report's page: template, figures and drawn people."""
