"""`python -m autocompress`."""

import sys

from autocompress.cli.commands import main

sys.exit(main())
