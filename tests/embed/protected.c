/* Saves over a file without write permission, as a user whom permissions bind.
 *   protected [net.safetensors in the working directory, which anyone may write to] */
#include <gradcore/gradcore.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

enum { NOBODY = 65534 };

int main(void) {
  const char path[] = "net.safetensors";
  const int64_t widths[] = {3, 2};
  const gradcore_net_config config = {sizeof config, widths, 2, NULL, 0, 0, 1, GRADCORE_FLOAT32};
  gradcore_net *net = NULL;
  if (geteuid() == 0 && setuid(NOBODY) != 0) return 2;
  if (gradcore_net_create(&config, &net) || gradcore_net_save(net, path) || chmod(path, 0444)) return 3;
  if (gradcore_net_save(net, path) != GRADCORE_IO_ERROR) return 4;
  puts(gradcore_last_error());
  if (chmod(path, 0644) || gradcore_net_save(net, path)) return 5;
  gradcore_net_destroy(net);
  return 0;
}
