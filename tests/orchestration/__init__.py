"""Real Airflow on PostgreSQL over fakes. A package, so that its one Airflow goes when the last of its tests is done."""
