"""What Spark's own scheduler puts into a driver's pod: its arguments and variables.  Pure.

``spark-submit`` gives each driver's container arguments and variables (``BasicDriverFeatureStep``, ``DriverCommandFeatureStep`` and
``LocalDirsFeatureStep`` of Spark 4).  A node takes nothing from them.  They are known here, each by its exact form, so that a node that was
started with these and nothing else is the node that its image says; one more argument, variable or Java option, and it is another one.
"""

from __future__ import annotations

import re
from typing import Final

PROGRAM: Final = "local:///opt/confide/job.py"
"""What is named to ``spark-submit`` as the program: nothing is there, the driver's config map has the job."""
SPARK_ARGUMENTS: Final = (
    *("driver", "--properties-file", "/opt/spark/conf/spark.properties"),
    *("--class", "org.apache.spark.deploy.PythonRunner", PROGRAM),
)
VARIABLES: Final = {
    "SPARK_APPLICATION_ID": re.compile(r"spark-[0-9a-f]{32}"),
    "SPARK_CONF_DIR": re.compile(r"/opt/spark/conf"),
    "SPARK_DRIVER_BIND_ADDRESS": re.compile(r"[0-9]{1,3}(\.[0-9]{1,3}){3}|[0-9a-f:]{2,39}"),
    "SPARK_LOCAL_DIRS": re.compile(r"/var/data/spark-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"),
    "SPARK_USER": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}"),
}


def is_of_spark(name: str, value: str) -> bool:
    """Whether Spark's scheduler gives a driver this variable, and one of that form."""
    form = VARIABLES.get(name)
    return form is not None and form.fullmatch(value) is not None
