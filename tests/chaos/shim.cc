// Stands between a process and the C library, to make a disk slow, to forget what was not synced, and
// to step the clock on the wall. Loaded with LD_PRELOAD; ZMESH_SHIM names a folder.
//
//   FOLDER/control   three numbers of 64 bits: milliseconds that a sync takes, seconds by which the
//                    clock on the wall is wrong, and whether a journal is written
//   FOLDER/journal   what a write or a cut has replaced, so that it can be undone, and every sync
//
// A record of the journal: kind (W, T or S), bytes of the path (32 bits), offset, length of the file
// before (64 bits each), bytes replaced (32 bits), the path, the bytes. Everything in the byte order of
// the machine. S has no more than the path: all before it of this file is safe.
//
// Names are taken to be on the disk at once: creating, renaming and removing files is not undone.

#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <mutex>
#include <string>

namespace {

struct Control {
  volatile int64_t sync_ms;
  volatile int64_t clock_s;
  volatile int64_t journal;
};

Control *control = nullptr;
int journal = -1;
std::mutex lock;

__attribute__((constructor)) void begin() {
  const char *folder = getenv("ZMESH_SHIM");
  if (folder == nullptr) return;
  int file = open((std::string(folder) + "/control").c_str(), O_RDONLY);
  if (file < 0) return;
  void *at = mmap(nullptr, sizeof(Control), PROT_READ, MAP_SHARED, file, 0);
  close(file);
  if (at == MAP_FAILED) return;
  journal = open((std::string(folder) + "/journal").c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
  control = static_cast<Control *>(at);
}

template <typename F>
F real(const char *name) {
  return reinterpret_cast<F>(dlsym(RTLD_NEXT, name));
}

std::string path_of(int file) {
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  ssize_t bytes = readlink(link, path, sizeof path);
  return bytes > 0 ? std::string(path, static_cast<size_t>(bytes)) : std::string();
}

void put(std::string &record, const void *bytes, size_t count) {
  record.append(static_cast<const char *>(bytes), count);
}

// Writes down what is about to be replaced, from `offset` on, `count` bytes at most.
void note(char kind, int file, uint64_t offset, uint64_t count) {
  if (control == nullptr || control->journal == 0) return;
  std::string path = path_of(file);
  if (path.empty() || path[0] != '/') return;
  struct stat now;
  uint64_t length = fstat(file, &now) == 0 ? static_cast<uint64_t>(now.st_size) : 0;
  std::string old;
  if (kind != 'S' && offset < length) {
    old.resize(count < length - offset ? count : length - offset);
    ssize_t bytes = pread(file, &old[0], old.size(), static_cast<off_t>(offset));
    old.resize(bytes > 0 ? static_cast<size_t>(bytes) : 0);
  }
  uint32_t path_bytes = static_cast<uint32_t>(path.size());
  uint32_t old_bytes = static_cast<uint32_t>(old.size());
  std::string record(1, kind);
  put(record, &path_bytes, sizeof path_bytes);
  put(record, &offset, sizeof offset);
  put(record, &length, sizeof length);
  put(record, &old_bytes, sizeof old_bytes);
  record += path + old;
  std::lock_guard<std::mutex> guard(lock);
  if (write(journal, record.data(), record.size()) < 0) abort();
}

int sync_with(const char *name, int file) {
  if (control != nullptr && control->sync_ms > 0) {
    usleep(static_cast<useconds_t>(control->sync_ms) * 1000);
  }
  int result = real<int (*)(int)>(name)(file);
  if (result == 0) note('S', file, 0, 0);
  return result;
}

}  // namespace

extern "C" {

ssize_t pwrite64(int file, const void *bytes, size_t count, off64_t offset) {
  note('W', file, static_cast<uint64_t>(offset), count);
  return real<ssize_t (*)(int, const void *, size_t, off64_t)>("pwrite64")(file, bytes, count, offset);
}

ssize_t pwrite(int file, const void *bytes, size_t count, off_t offset) {
  return pwrite64(file, bytes, count, offset);
}

int ftruncate64(int file, off64_t length) noexcept {
  note('T', file, static_cast<uint64_t>(length), UINT64_MAX);
  return real<int (*)(int, off64_t)>("ftruncate64")(file, length);
}

int ftruncate(int file, off_t length) noexcept { return ftruncate64(file, length); }

int fdatasync(int file) { return sync_with("fdatasync", file); }

int fsync(int file) { return sync_with("fsync", file); }

int clock_gettime(clockid_t clock, struct timespec *now) noexcept {
  int result = real<int (*)(clockid_t, struct timespec *)>("clock_gettime")(clock, now);
  if (result == 0 && clock == CLOCK_REALTIME && control != nullptr) now->tv_sec += control->clock_s;
  return result;
}

}  // extern "C"
