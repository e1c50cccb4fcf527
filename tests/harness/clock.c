/* A clock that a test can move: preloaded into a Redis of the test's own. CLOCK_STEP names a file of eight bytes, the
   milliseconds by which the wall clock is moved. It calls nothing that may ask for memory, as an allocator may ask for
   the time before it can serve. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile long *step_ms;

__attribute__((constructor)) static void open_step(void) {
  const char *path = getenv("CLOCK_STEP");
  int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  if (file < 0) return;
  void *map = mmap(0, sizeof(long), PROT_READ, MAP_SHARED, file, 0);
  if (map != MAP_FAILED) step_ms = map;
  close(file);
}

int clock_gettime(clockid_t id, struct timespec *time) {
  int failed = (int)syscall(SYS_clock_gettime, id, time);
  if (failed || !step_ms || (id != CLOCK_REALTIME && id != CLOCK_REALTIME_COARSE)) return failed;
  long ns = time->tv_nsec + *step_ms % 1000 * 1000000;
  time->tv_sec += *step_ms / 1000;
  if (ns < 0) ns += 1000000000, time->tv_sec--;
  if (ns >= 1000000000) ns -= 1000000000, time->tv_sec++;
  time->tv_nsec = ns;
  return 0;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
  (void)zone;
  struct timespec now;
  if (clock_gettime(CLOCK_REALTIME, &now)) return -1;
  time->tv_sec = now.tv_sec;
  time->tv_usec = now.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *out) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (out) *out = now.tv_sec;
  return now.tv_sec;
}
