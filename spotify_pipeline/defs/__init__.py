"""All Dagster: resources, partitions, assets, jobs, schedules, sensors, instance storage."""
