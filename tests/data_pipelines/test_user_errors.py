"""A bucket that lets nobody in is a mistake of the user, one that is away is none."""

import botocore.exceptions
import gcsfs.retry
import google.auth.exceptions
import pytest

from data_pipelines import user_errors


@pytest.mark.parametrize(
  'error',
  [
    OSError('Forbidden: https://storage/held\nno access to held'),
    gcsfs.retry.HttpError({'code': 401, 'message': 'Anonymous caller has no access to held'}),
    botocore.exceptions.NoCredentialsError(),
    google.auth.exceptions.DefaultCredentialsError('no credentials'),
  ],
)
def test_a_bucket_that_lets_nobody_in_is_said_in_one_line(error):
  said = user_errors.message(error)
  assert 'Log in' in said and '\n' not in said


@pytest.mark.parametrize(
  'error', [OSError('503'), gcsfs.retry.HttpError({'code': 503, 'message': 'away'}), KeyError('x')]
)
def test_other_errors_are_not(error):
  assert user_errors.message(error) is None
