"""What operators see of all processes: metrics behind one address, rules that alert on them, and a dashboard."""
