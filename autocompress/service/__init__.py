"""The long-running side: schedules, promotion, dashboards."""
