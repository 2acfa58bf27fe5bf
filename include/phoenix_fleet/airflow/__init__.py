"""The Airflow layer: the words that DAGs are written in, and the glue below them. Only this package knows Airflow."""
