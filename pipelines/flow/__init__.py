"""What runs the stages: Spark sessions, machine checks, and the runner itself."""
