#!/usr/bin/env bash
# Makes sure that the browser of the tests of the broker's page is there, and what reads the PDFs that it prints.
set -euo pipefail

if command -v chromium >/dev/null && command -v pdftotext >/dev/null; then
    exit 0
fi
"$(dirname "$0")/install_debian.sh" "Chromium" chromium fonts-dejavu-core poppler-utils
