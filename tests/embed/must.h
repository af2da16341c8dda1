/* For programs in which no call may fail. */
#include <gradcore/gradcore.h>
#include <stdio.h>
#include <stdlib.h>

static void must(gradcore_status status) {
  if (status == GRADCORE_OK) return;
  fprintf(stderr, "%s\n", gradcore_last_error());
  exit(1);
}
