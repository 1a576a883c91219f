// A driver without a GPU: what is put on a stream runs when somebody waits for it and not before,
// device addresses are no pointers, captured work does not run, and every mistake is a status.
// It loads no code: that has a fake of its own, ../plugins/kernels/fake_driver.cpp.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, INVALID = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, NO_CONTEXT = 201, CAPTURING = 900 };
enum { MOST_WORK = 4096, MOST_BUFFERS = 4096 };
static const uint64_t DEVICE = 1ull << 60;

typedef void (*Function)(void*);
typedef struct {
  void* to;
  const void* from;
  size_t size;
  Function function;
  void* data;
} Work;
typedef struct {
  Work work[MOST_WORK];
  int count;
} List;
typedef struct {
  List queue, captured;
  int capturing;
} Stream;
typedef struct {
  void* memory;
  size_t size;
  int on_device;
} Buffer;

static Buffer buffers[MOST_BUFFERS];
static int live, allocated, waits, launches, graphs, initialised;
static _Thread_local int current;
static const char* refused = "";
static int devices = 1, version = 12060, integrated = 0;

static int ask(const char* name) {
  return !initialised ? 3 : strcmp(name, refused) == 0 ? 719 : OK;
}
#define ASK()                   \
  do {                          \
    int status = ask(__func__); \
    if (status) return status;  \
  } while (0)

int fake_count(const char* what) {
  return strcmp(what, "live") == 0        ? live
         : strcmp(what, "allocated") == 0 ? allocated
         : strcmp(what, "waits") == 0     ? waits
         : strcmp(what, "launches") == 0  ? launches
         : strcmp(what, "graphs") == 0    ? graphs
                                          : -1;
}
void fake_refuse(const char* name) { refused = strdup(name); }
void fake_devices(int count) { devices = count; }
void fake_version(int number) { version = number; }
void fake_integrated(void) { integrated = 1; }

static Buffer* find(const void* address, size_t size, int on_device) {
  for (int i = 0; i < MOST_BUFFERS; ++i) {
    char* begin = buffers[i].memory;
    if (begin && buffers[i].on_device == on_device && (char*)address >= begin &&
        (char*)address + size <= begin + buffers[i].size)
      return &buffers[i];
  }
  return NULL;
}
static void* take(size_t size, int on_device) {
  for (int i = 0; i < MOST_BUFFERS; ++i)
    if (!buffers[i].memory) {
      buffers[i] = (Buffer){malloc(size), size, on_device};
      memset(buffers[i].memory, 0xA5, size);
      ++live, ++allocated;
      return buffers[i].memory;
    }
  return NULL;
}
static int give(void* memory, int on_device) {
  for (int i = 0; i < MOST_BUFFERS; ++i)
    if (memory && buffers[i].memory == memory && buffers[i].on_device == on_device) {
      free(memory);
      buffers[i].memory = NULL;
      --live;
      return OK;
    }
  return INVALID;
}
// The memory behind a device address; NULL for any other.
void* fake_memory(uint64_t address, size_t size) {
  void* memory = (void*)(address - DEVICE);
  return address >= DEVICE && find(memory, size, 1) ? memory : NULL;
}
static int put(Stream* stream, Work work) {
  List* list = stream->capturing ? &stream->captured : &stream->queue;
  if (list->count == MOST_WORK) return OUT_OF_MEMORY;
  list->work[list->count++] = work;
  return OK;
}
int fake_enqueue(Stream* stream, Function function, void* data) {
  return put(stream, (Work){NULL, NULL, 0, function, data});
}

int cuInit(unsigned flags) {
  initialised = 1;
  ASK();
  return flags ? INVALID : OK;
}
int cuDriverGetVersion(int* number) {
  ASK();
  *number = version;
  return OK;
}
int cuDeviceGetCount(int* count) {
  ASK();
  *count = devices;
  return OK;
}
int cuDeviceGet(int* device, int ordinal) {
  ASK();
  *device = 7;
  return ordinal < devices ? OK : NO_DEVICE;
}
int cuDeviceGetName(char* name, int size, int device) {
  ASK();
  strncpy(name, "Fake Orin", (size_t)size);
  return device == 7 ? OK : INVALID;
}
int cuDeviceGetAttribute(int* value, int attribute, int device) {
  ASK();
  if (device != 7) return INVALID;
  switch (attribute) {
    case 16:
      *value = 8;
      return OK;
    case 18:
      *value = integrated;
      return OK;
    case 75:
      *value = 8;
      return OK;
    case 76:
      *value = 6;
      return OK;
    default:
      return INVALID;
  }
}
int cuDevicePrimaryCtxRetain(void** context, int device) {
  ASK();
  *context = buffers;
  return device == 7 ? OK : INVALID;
}
int cuCtxSetCurrent(void* context) {
  ASK();
  current = context == buffers;
  return OK;
}
int cuMemAlloc_v2(uint64_t* address, size_t size) {
  ASK();
  if (!current || !size) return NO_CONTEXT;
  *address = (uint64_t)take(size, 1) + DEVICE;
  return OK;
}
int cuMemFree_v2(uint64_t address) { return give((void*)(address - DEVICE), 1); }
int cuMemGetInfo_v2(size_t* free, size_t* total) {
  ASK();
  if (!current) return NO_CONTEXT;
  *free = *total = 1u << 30;
  for (int i = 0; i < MOST_BUFFERS; ++i)
    if (buffers[i].memory && buffers[i].on_device) *free -= buffers[i].size;
  return OK;
}
int cuMemHostAlloc(void** address, size_t size, unsigned flags) {
  ASK();
  if (!current || flags) return NO_CONTEXT;
  *address = take(size, 0);
  return OK;
}
int cuMemFreeHost(void* address) { return give(address, 0); }
int cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t size, Stream* stream) {
  ASK();
  void* memory = fake_memory(to, size);
  if (!memory || !find(from, size, 0)) return INVALID;
  return put(stream, (Work){memory, from, size, NULL, NULL});
}
int cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t size, Stream* stream) {
  ASK();
  void* memory = fake_memory(from, size);
  if (!memory || !find(to, size, 0)) return INVALID;
  return put(stream, (Work){to, memory, size, NULL, NULL});
}
int cuStreamCreate(Stream** stream, unsigned flags) {
  ASK();
  *stream = calloc(1, sizeof **stream);
  return flags == 1 && current ? OK : INVALID;
}
int cuStreamSynchronize(Stream* stream) {
  ASK();
  if (stream->capturing) return CAPTURING;
  ++waits;
  for (int i = 0; i < stream->queue.count; ++i) {
    Work* work = &stream->queue.work[i];
    if (work->function)
      work->function(work->data);
    else
      memcpy(work->to, work->from, work->size);
  }
  stream->queue.count = 0;
  return OK;
}
int cuStreamBeginCapture_v2(Stream* stream, int mode) {
  ASK();
  if (stream->capturing || mode != 1) return INVALID;
  stream->capturing = 1, stream->captured.count = 0;
  return OK;
}
int cuStreamEndCapture(Stream* stream, List** graph) {
  if (!stream->capturing) return INVALID;
  stream->capturing = 0;
  *graph = malloc(sizeof **graph);
  **graph = stream->captured;
  ++graphs;
  return OK;
}
int cuGraphInstantiateWithFlags(List** executable, List* graph, uint64_t flags) {
  ASK();
  *executable = malloc(sizeof **executable);
  **executable = *graph;
  ++graphs;
  return flags ? INVALID : OK;
}
int cuGraphLaunch(List* graph, Stream* stream) {
  ASK();
  ++launches;
  for (int i = 0; i < graph->count; ++i)
    if (put(stream, graph->work[i])) return OUT_OF_MEMORY;
  return OK;
}
int cuGraphExecDestroy(List* executable) {
  free(executable);
  --graphs;
  return OK;
}
int cuGraphDestroy(List* graph) {
  free(graph);
  --graphs;
  return OK;
}
int cuGetErrorName(int status, const char** text) {
  *text = status == CAPTURING ? "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED" : "CUDA_ERROR_FAKE";
  return OK;
}
int cuGetErrorString(int status, const char** text) {
  *text = status ? "the fake driver refuses" : "no error";
  return OK;
}
