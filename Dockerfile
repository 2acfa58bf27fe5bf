# The image that runs in production: Astro Runtime with the project on it. See docs/howto/deploy.md.
#
# The default names no registry: give the image as your registry has it,
#   docker build --build-arg BASE_IMAGE=<registry>/astronomer/astro-runtime:3.3-9-python-3.12-base .
# Choose a -base distribution. The other ones install requirements.txt by themselves before the first line below, and
# refuse one that pins apache-airflow, as the lock does. Where a base does that and accepts it, what follows finds
# everything in place and changes nothing.
ARG BASE_IMAGE=astronomer/astro-runtime:3.3-9-python-3.12-base
FROM ${BASE_IMAGE}

USER root
WORKDIR /usr/local/airflow

COPY packages.txt requirements.txt ./
RUN apt-get update \
    && sed 's/#.*//' packages.txt | xargs -r env DEBIAN_FRONTEND=noninteractive \
        apt-get install --yes --no-install-recommends \
    && rm -rf /var/lib/apt/lists/*
RUN pip install --no-cache-dir --disable-pip-version-check --root-user-action=ignore \
        --require-hashes --requirement requirements.txt

# What .dockerignore lets through: dags/, include/, plugins/. Owned by root: no task can change the code that it runs.
COPY . .
RUN printf '#!/bin/sh\nexec python -m phoenix_fleet.cli "$@"\n' > /usr/local/bin/phoenix \
    && chmod 755 /usr/local/bin/phoenix \
    && install -d -o astro -m 750 /var/lib/phoenix-fleet

# As include/airflow.env has it, but for the executor and the auth manager: those are the deployment's.
ENV PYTHONPATH=/usr/local/airflow/include \
    PHOENIX_INCLUDE=/usr/local/airflow/include \
    AIRFLOW__CORE__LOAD_EXAMPLES=False \
    AIRFLOW__CORE__PARALLELISM=8 \
    AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG=8 \
    AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME=0.1 \
    AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL=1 \
    AIRFLOW__WORKERS__EXECUTION_API_RETRIES=15 \
    AIRFLOW__WORKERS__EXECUTION_API_RETRY_WAIT_MAX=3 \
    AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT=30 \
    AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL=5 \
    AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL=15 \
    AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL=30 \
    AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES=2 \
    AIRFLOW__LOGGING__LOGGING_LEVEL=INFO

USER astro
