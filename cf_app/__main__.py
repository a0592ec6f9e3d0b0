"""``python -m cf_app``."""

from cf_app.cli import main

raise SystemExit(main())
