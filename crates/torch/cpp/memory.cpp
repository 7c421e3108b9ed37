// Memory of the host.
#include <malloc.h>

extern "C" {

// From here on blocks of `bytes` and more are mapped by themselves and go back to the system when they are freed. glibc otherwise
// raises that limit to 32 MiB with the first large block that is freed. 0 where it cannot be set.
int sd_return_blocks_of(int bytes) {
#ifdef __GLIBC__
  return mallopt(M_MMAP_THRESHOLD, bytes);
#else
  return bytes == 0;
#endif
}
}
