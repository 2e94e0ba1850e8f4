// An emulated NVIDIA driver and NCCL of one rank, for tests without a GPU: streams and events have a clock and no data.
// It refuses what the real ones would punish late or silently: a split while an operation of the communicator runs, and
// a stream that has not the highest priority.
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec * 1e-9;
}

static double later(double a, double b) { return a > b ? a : b; }

// ---- The driver.

enum { SUCCESS = 0, INVALID_VALUE = 1, NOT_READY = 600, HIGHEST_PRIORITY = -5 };

typedef struct { double busyUntil; } Stream;
typedef struct { double due; int timed; } Event;

static Stream defaultStream;
static int contexts;

static Stream *streamOf(Stream *stream) { return stream ? stream : &defaultStream; }

int cuGetErrorString(int code, const char **text) { *text = "as the emulated driver says"; return SUCCESS; }
int cuDeviceGet(int *device, int index) { *device = index; return SUCCESS; }
int cuDeviceGetUuid_v2(unsigned char *uuid, int device) {
  for (int i = 0; i < 16; i++) uuid[i] = (unsigned char)i;
  return SUCCESS;
}
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = &contexts; return SUCCESS; }
int cuCtxSetCurrent(void *context) { return SUCCESS; }
int cuCtxPushCurrent_v2(void *context) { return SUCCESS; }
int cuCtxPopCurrent_v2(void **context) { *context = &contexts; return SUCCESS; }
int cuCtxGetStreamPriorityRange(int *least, int *greatest) {
  *least = 0;
  *greatest = HIGHEST_PRIORITY;
  return SUCCESS;
}
int cuStreamCreateWithPriority(Stream **stream, unsigned flags, int priority) {
  if (priority != HIGHEST_PRIORITY || flags != 1) return INVALID_VALUE;
  *stream = calloc(1, sizeof(Stream));
  return SUCCESS;
}
int cuStreamDestroy_v2(Stream *stream) { free(stream); return SUCCESS; }
int cuEventCreate(Event **event, unsigned flags) {
  *event = calloc(1, sizeof(Event));
  (*event)->timed = !(flags & 2);
  return SUCCESS;
}
int cuEventRecord(Event *event, Stream *stream) {
  event->due = later(now(), streamOf(stream)->busyUntil);
  return SUCCESS;
}
int cuStreamWaitEvent(Stream *stream, Event *event, unsigned flags) {
  streamOf(stream)->busyUntil = later(streamOf(stream)->busyUntil, event->due);
  return SUCCESS;
}
int cuEventQuery(Event *event) { return now() >= event->due ? SUCCESS : NOT_READY; }
int cuEventElapsedTime(float *milliseconds, Event *first, Event *last) {
  if (!first->timed || !last->timed) return INVALID_VALUE;
  if (now() < last->due) return NOT_READY;
  *milliseconds = (float)((last->due - first->due) * 1e3);
  return SUCCESS;
}
int cuEventDestroy_v2(Event *event) { free(event); return SUCCESS; }

// ---- NCCL. A call is in progress for 100 µs, an operation runs for 100 ms.

enum { INVALID_USAGE = 5, IN_PROGRESS = 7 };

typedef struct { double readyAt; double runsUntil; } Communicator;
typedef struct { char content[128]; } UniqueId;

static const double CallSeconds = 100e-6, OperationSeconds = 100e-3;

static Communicator *newCommunicator(void) { return calloc(1, sizeof(Communicator)); }

static int begin(Communicator *communicator) {
  communicator->readyAt = now() + CallSeconds;
  return IN_PROGRESS;
}

int ncclGetVersion(int *version) { *version = 22809; return SUCCESS; }
const char *ncclGetErrorString(int result) { return result == INVALID_USAGE ? "invalid usage" : "emulated"; }
const char *ncclGetLastError(void *communicator) { return ""; }
int ncclGetUniqueId(UniqueId *id) { return SUCCESS; }
int ncclCommInitRankConfig(Communicator **made, int ranks, UniqueId id, int rank, void *config) {
  *made = newCommunicator();
  return begin(*made);
}
int ncclCommSplit(Communicator *communicator, int color, int key, Communicator **made, void *config) {
  if (now() < communicator->runsUntil) return INVALID_USAGE;
  *made = color < 0 ? NULL : newCommunicator();
  return begin(communicator);
}
int ncclCommGetAsyncError(Communicator *communicator, int *state) {
  *state = now() < communicator->readyAt ? IN_PROGRESS : SUCCESS;
  return SUCCESS;
}
int ncclCommUserRank(Communicator *communicator, int *rank) { *rank = 0; return SUCCESS; }
int ncclCommCount(Communicator *communicator, int *ranks) { *ranks = 1; return SUCCESS; }
int ncclCommFinalize(Communicator *communicator) {
  return now() < communicator->runsUntil ? INVALID_USAGE : begin(communicator);
}
int ncclCommDestroy(Communicator *communicator) { free(communicator); return SUCCESS; }
int ncclCommAbort(Communicator *communicator) { return SUCCESS; }
int ncclAllReduce(
    const void *send, void *receive, size_t count, int type, int operation, Communicator *communicator, Stream *stream) {
  Stream *on = streamOf(stream);
  on->busyUntil = later(now(), on->busyUntil) + OperationSeconds;
  communicator->runsUntil = on->busyUntil;
  return begin(communicator);
}
