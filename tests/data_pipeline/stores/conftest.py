"""Access to an S3 server, for every test of a store."""

from tests.support.s3_access import environment as environment
from tests.support.s3_access import folder as folder
from tests.support.s3_access import start as start
