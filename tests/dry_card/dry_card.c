// A CUDA card that does no arithmetic, for torch's own allocator to give out memory of.
//
// Preloaded, it answers in the place of CUDA's runtime and driver, NVML, cuBLAS and NVRTC what torch, Triton and
// bitsandbytes ask of them. Memory is the host's and is counted like a card's; little of it is ever touched, since
// kernels, products and copies on the card do nothing. Copies between host and card are made, so that
// site/sitecustomize.py can compute whole numbers where they lie. CUDA's real runtime stays loaded for the little that is
// not here.
//
// DRY_CARD_GIB, DRY_CARD_NAME and DRY_CARD_CAPABILITY say what card it is.

#define _GNU_SOURCE
#include <cuda.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

// Zero is success in all of these libraries. What does nothing needs none of its arguments, and is defined by the name
// that the linker sees, since the headers declare it with them.
#define ANSWERS(type, function, ...) type function { __VA_ARGS__; return 0; }
#define DOES_NOTHING(name)                                                                                             \
    int name##_does_nothing(void) __asm__(#name);                                                                      \
    int name##_does_nothing(void) { return 0; }

// Devices
//
// One. Where torch and unsloth choose kernels and sizes of buffers by what a card has, it has what a GeForce RTX 4090
// has; what nobody has asked for is 0.

#define MULTIPROCESSORS 128
#define THREADS_PER_BLOCK 1024
#define THREADS_PER_MULTIPROCESSOR 1536
#define REGISTERS 65536
#define SHARED_BYTES (48 << 10)
#define SHARED_BYTES_ON_REQUEST (99 << 10)
#define SHARED_BYTES_PER_MULTIPROCESSOR (100 << 10)
#define WARP 32
#define CUDA_VERSION_SAID 13000

static const char *said(const char *name, const char *otherwise) {
    const char *value = getenv(name);
    return value ? value : otherwise;
}

static size_t total_bytes(void) { return (size_t)(atof(said("DRY_CARD_GIB", "24")) * (double)(1 << 30)); }

static int capability(int is_minor) {
    int major = 0, minor = 0;
    sscanf(said("DRY_CARD_CAPABILITY", "8.9"), "%d.%d", &major, &minor);
    return is_minor ? minor : major;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device) {
    *properties = (struct cudaDeviceProp){
        .totalGlobalMem = total_bytes(),
        .major = capability(0),
        .minor = capability(1),
        .multiProcessorCount = MULTIPROCESSORS,
        .warpSize = WARP,
        .maxThreadsPerBlock = THREADS_PER_BLOCK,
        .maxThreadsPerMultiProcessor = THREADS_PER_MULTIPROCESSOR,
        .maxThreadsDim = {1024, 1024, 64},
        .maxGridSize = {INT32_MAX, UINT16_MAX, UINT16_MAX},
        .regsPerBlock = REGISTERS,
        .regsPerMultiprocessor = REGISTERS,
        .sharedMemPerBlock = SHARED_BYTES,
        .sharedMemPerBlockOptin = SHARED_BYTES_ON_REQUEST,
        .sharedMemPerMultiprocessor = SHARED_BYTES_PER_MULTIPROCESSOR,
        .l2CacheSize = 72 << 20,
        .memoryBusWidth = 384,
    };
    snprintf(properties->name, sizeof properties->name, "%s", said("DRY_CARD_NAME", "NVIDIA GeForce RTX 4090"));
    return device ? cudaErrorInvalidDevice : cudaSuccess;
}

static int attribute(int number) {
    switch (number) { // The same numbers in runtime and driver.
    case cudaDevAttrComputeCapabilityMajor: return capability(0);
    case cudaDevAttrComputeCapabilityMinor: return capability(1);
    case cudaDevAttrMultiProcessorCount: return MULTIPROCESSORS;
    case cudaDevAttrWarpSize: return WARP;
    case cudaDevAttrMaxThreadsPerBlock: return THREADS_PER_BLOCK;
    case cudaDevAttrMaxThreadsPerMultiProcessor: return THREADS_PER_MULTIPROCESSOR;
    case cudaDevAttrMaxRegistersPerBlock: return REGISTERS;
    case cudaDevAttrMaxSharedMemoryPerBlock: return SHARED_BYTES;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: return SHARED_BYTES_ON_REQUEST;
    case cudaDevAttrMaxGridDimX: return INT32_MAX;
    case cudaDevAttrMaxGridDimY:
    case cudaDevAttrMaxGridDimZ: return UINT16_MAX;
    case CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED: return 1;
    default: return 0;
    }
}

ANSWERS(cudaError_t, cudaGetDeviceCount(int *count), *count = 1)
ANSWERS(cudaError_t, cudaGetDevice(int *device), *device = 0)
ANSWERS(cudaError_t, cudaDriverGetVersion(int *version), *version = CUDA_VERSION_SAID)
ANSWERS(cudaError_t, cudaRuntimeGetVersion(int *version), *version = CUDA_VERSION_SAID)
ANSWERS(cudaError_t, cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr number, int device),
        *value = attribute(number))
ANSWERS(cudaError_t, cudaDeviceGetPCIBusId(char *place, int length, int device),
        snprintf(place, length, "0000:01:00.0"))
ANSWERS(cudaError_t, cudaDeviceCanAccessPeer(int *can, int device, int peer), *can = 0)
ANSWERS(cudaError_t, cudaDeviceGetStreamPriorityRange(int *least, int *greatest), *least = 0, *greatest = -5)
DOES_NOTHING(cudaSetDevice)
DOES_NOTHING(cudaDeviceSynchronize)

// Memory
//
// By cudaMalloc, or by the driver's virtual memory, with which torch's expandable segments grow: addresses are reserved
// without limit, and what is created to be mapped to them counts. Both end where the card does. Blocks are noted, so
// that a pointer can be told to be the card's, the host's, or unknown.

#define PAGE ((size_t)2 << 20)
#define CONTEXT_BYTES ((size_t)512 << 20) // Taken from the beginning, as by a CUDA context.

struct block {
    char *start;
    size_t bytes;
    enum cudaMemoryType type;
    struct block *next;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct block *blocks;
static size_t used_bytes = CONTEXT_BYTES;
static cudaError_t last_error;

static int take(size_t bytes) {
    pthread_mutex_lock(&lock);
    int fits = used_bytes + bytes <= total_bytes();
    used_bytes += fits ? bytes : 0;
    pthread_mutex_unlock(&lock);
    return fits;
}

static void give_back(size_t bytes) {
    pthread_mutex_lock(&lock);
    used_bytes -= bytes;
    pthread_mutex_unlock(&lock);
}

static void note(void *start, size_t bytes, enum cudaMemoryType type) {
    struct block *block = malloc(sizeof *block);
    pthread_mutex_lock(&lock);
    *block = (struct block){start, bytes, type, blocks};
    blocks = block;
    pthread_mutex_unlock(&lock);
}

static size_t forget(const void *start) { // How many bytes the block had.
    size_t bytes = 0;
    pthread_mutex_lock(&lock);
    for (struct block **place = &blocks; *place; place = &(*place)->next)
        if ((*place)->start == start) {
            struct block *found = *place;
            bytes = found->bytes;
            *place = found->next;
            free(found);
            break;
        }
    pthread_mutex_unlock(&lock);
    return bytes;
}

static enum cudaMemoryType type_of(const char *pointer) {
    enum cudaMemoryType type = cudaMemoryTypeUnregistered;
    pthread_mutex_lock(&lock);
    for (struct block *block = blocks; block; block = block->next)
        if (pointer >= block->start && pointer < block->start + block->bytes) type = block->type;
    pthread_mutex_unlock(&lock);
    return type;
}

static void *map(void *wish, size_t bytes) { // Pages that the host fills when they are touched.
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void *start = mmap(wish, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (start == MAP_FAILED) abort();
    note(start, bytes, cudaMemoryTypeDevice);
    return start;
}

cudaError_t cudaMalloc(void **start, size_t bytes) {
    bytes = (bytes + PAGE - 1) / PAGE * PAGE;
    *start = NULL;
    if (!take(bytes)) return last_error = cudaErrorMemoryAllocation;
    *start = map(NULL, bytes);
    return cudaSuccess;
}

cudaError_t cudaFree(void *start) {
    size_t bytes = forget(start);
    if (bytes) munmap(start, bytes);
    give_back(bytes);
    return cudaSuccess;
}

// A handle is the number of its bytes.
CUresult cuMemCreate(CUmemGenericAllocationHandle *handle, size_t bytes, const CUmemAllocationProp *properties,
                     unsigned long long flags) {
    *handle = bytes;
    return take(bytes) ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

ANSWERS(CUresult, cuMemRelease(CUmemGenericAllocationHandle handle), give_back(handle))
ANSWERS(CUresult, cuMemAddressReserve(CUdeviceptr *start, size_t bytes, size_t alignment, CUdeviceptr wish,
                                      unsigned long long flags),
        *start = (CUdeviceptr)map((void *)wish, bytes))
ANSWERS(CUresult, cuMemAddressFree(CUdeviceptr start, size_t bytes),
        forget((void *)start), munmap((void *)start, bytes))
ANSWERS(CUresult, cuMemUnmap(CUdeviceptr start, size_t bytes), madvise((void *)start, bytes, MADV_DONTNEED))
ANSWERS(CUresult, cuMemGetAllocationGranularity(size_t *bytes, const CUmemAllocationProp *properties,
                                                CUmemAllocationGranularity_flags flags),
        *bytes = PAGE)
DOES_NOTHING(cuMemMap)
DOES_NOTHING(cuMemSetAccess)

ANSWERS(cudaError_t, cudaMemGetInfo(size_t *free_bytes, size_t *total),
        *total = total_bytes(), *free_bytes = *total - used_bytes)
ANSWERS(cudaError_t, cudaHostAlloc(void **start, size_t bytes, unsigned flags),
        *start = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096), note(*start, bytes, cudaMemoryTypeHost))
ANSWERS(cudaError_t, cudaFreeHost(void *start), forget(start), free(start))
ANSWERS(cudaError_t, cudaHostRegister(void *start, size_t bytes, unsigned flags),
        note(start, bytes, cudaMemoryTypeHost))
ANSWERS(cudaError_t, cudaHostUnregister(void *start), forget(start))
ANSWERS(cudaError_t, cudaPointerGetAttributes(struct cudaPointerAttributes *found, const void *pointer),
        *found = (struct cudaPointerAttributes){.type = type_of(pointer), .devicePointer = (void *)pointer})
ANSWERS(CUresult, cuPointerGetAttribute(void *value, CUpointer_attribute which, CUdeviceptr pointer),
        *(CUdeviceptr *)value = pointer)

ANSWERS(cudaError_t, cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                                     cudaStream_t stream),
        if (kind != cudaMemcpyDeviceToDevice) memmove(to, from, bytes))
ANSWERS(cudaError_t, cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind),
        cudaMemcpyAsync(to, from, bytes, kind, NULL))
DOES_NOTHING(cudaMemset)
DOES_NOTHING(cudaMemsetAsync)
DOES_NOTHING(cudaMemcpyToSymbol)

cudaError_t cudaGetSymbolAddress(void **start, const void *symbol) { // No kernel writes there.
    static char anywhere[1 << 16];
    *start = anywhere;
    return cudaSuccess;
}

cudaError_t cudaPeekAtLastError(void) { return last_error; }

cudaError_t cudaGetLastError(void) {
    cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}

// Streams and events
//
// All is done as soon as it is asked for, so nothing is ever waited for. An event is the time of its record.

static cudaStream_t new_stream(void) { // Only ever compared.
    static uintptr_t streams;
    return (cudaStream_t)__atomic_add_fetch(&streams, 0x100, __ATOMIC_RELAXED);
}

static struct timespec *time_of(cudaEvent_t event) { return (struct timespec *)event; }

ANSWERS(cudaError_t, cudaStreamCreate(cudaStream_t *stream), *stream = new_stream())
ANSWERS(cudaError_t, cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags), *stream = new_stream())
ANSWERS(cudaError_t, cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int priority),
        *stream = new_stream())
ANSWERS(cudaError_t, cudaStreamGetPriority(cudaStream_t stream, int *priority), *priority = 0)
ANSWERS(cudaError_t, cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status),
        *status = cudaStreamCaptureStatusNone)
ANSWERS(cudaError_t, cudaStreamGetCaptureInfo(cudaStream_t stream, enum cudaStreamCaptureStatus *status,
                                              unsigned long long *id, cudaGraph_t *graph, const cudaGraphNode_t **nodes,
                                              const cudaGraphEdgeData **edges, size_t *count),
        *status = cudaStreamCaptureStatusNone)
ANSWERS(cudaError_t, cudaStreamAddCallback(cudaStream_t stream, cudaStreamCallback_t call, void *data, unsigned flags),
        call(stream, cudaSuccess, data))
ANSWERS(cudaError_t, cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t call, void *data), call(data))
DOES_NOTHING(cudaStreamDestroy)
DOES_NOTHING(cudaStreamQuery)
DOES_NOTHING(cudaStreamSynchronize)
DOES_NOTHING(cudaStreamWaitEvent)
DOES_NOTHING(cudaThreadExchangeStreamCaptureMode)
DOES_NOTHING(cuStreamIsCapturing)

ANSWERS(cudaError_t, cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags),
        *event = calloc(1, sizeof(struct timespec)))
ANSWERS(cudaError_t, cudaEventCreate(cudaEvent_t *event), cudaEventCreateWithFlags(event, 0))
ANSWERS(cudaError_t, cudaEventDestroy(cudaEvent_t event), free(event))
ANSWERS(cudaError_t, cudaEventRecord(cudaEvent_t event, cudaStream_t stream),
        clock_gettime(CLOCK_MONOTONIC, time_of(event)))
ANSWERS(cudaError_t, cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned flags),
        cudaEventRecord(event, stream))
ANSWERS(cudaError_t, cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to),
        *ms = (time_of(to)->tv_sec - time_of(from)->tv_sec) * 1e3 +
              (time_of(to)->tv_nsec - time_of(from)->tv_nsec) / 1e6)
DOES_NOTHING(cudaEventQuery)
DOES_NOTHING(cudaEventSynchronize)

// Kernels
//
// They are launched and do nothing. Before that, some are asked how many blocks of them a multiprocessor holds.

#define BLOCKS_PER_MULTIPROCESSOR 4

ANSWERS(cudaError_t, __cudaGetKernel(cudaKernel_t *kernel, const void *entry), *kernel = (cudaKernel_t)entry)
ANSWERS(cudaError_t, cudaFuncGetAttributes(struct cudaFuncAttributes *found, const void *kernel),
        *found = (struct cudaFuncAttributes){.maxThreadsPerBlock = THREADS_PER_BLOCK, .numRegs = 32,
                                             .binaryVersion = 80, .ptxVersion = 80})
ANSWERS(cudaError_t, cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *count, const void *kernel, int threads,
                                                                   size_t bytes),
        *count = BLOCKS_PER_MULTIPROCESSOR)
ANSWERS(cudaError_t, cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *count, const void *kernel, int threads,
                                                                            size_t bytes, unsigned flags),
        *count = BLOCKS_PER_MULTIPROCESSOR)
DOES_NOTHING(__cudaLaunchKernel)
DOES_NOTHING(cudaLaunchKernel)
DOES_NOTHING(cudaLaunchKernelExC)
DOES_NOTHING(cudaFuncSetAttribute)

// The driver
//
// torch asks the runtime for the driver's functions by name. What is not in this file succeeds and does nothing.

#define SOMETHING ((void *)8) // A context, a module or a kernel, only ever handed back.

static void *function_called(const char *name) {
    void *function = dlsym(RTLD_DEFAULT, name);
    return function ? function : (void *)cudaDeviceSynchronize;
}

ANSWERS(cudaError_t, cudaGetDriverEntryPointByVersion(const char *name, void **function, unsigned version,
                                                      unsigned long long flags,
                                                      enum cudaDriverEntryPointQueryResult *found),
        *function = function_called(name); if (found) *found = cudaDriverEntryPointSuccess)
ANSWERS(CUresult, cuGetProcAddress_v2(const char *name, void **function, int version, cuuint64_t flags,
                                      CUdriverProcAddressQueryResult *found),
        *function = function_called(name); if (found) *found = CU_GET_PROC_ADDRESS_SUCCESS)
ANSWERS(CUresult, cuDriverGetVersion(int *version), *version = CUDA_VERSION_SAID)
ANSWERS(CUresult, cuDeviceGetCount(int *count), *count = 1)
ANSWERS(CUresult, cuDeviceGet(CUdevice *device, int number), *device = 0)
ANSWERS(CUresult, cuDeviceGetAttribute(int *value, CUdevice_attribute number, CUdevice device),
        *value = attribute(number))
ANSWERS(CUresult, cuDevicePrimaryCtxGetState(CUdevice device, unsigned *flags, int *is_active),
        *flags = 0, *is_active = 1)
ANSWERS(CUresult, cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device), *context = SOMETHING)
ANSWERS(CUresult, cuCtxGetCurrent(CUcontext *context), *context = SOMETHING)
ANSWERS(CUresult, cuCtxGetDevice(CUdevice *device), *device = 0)
ANSWERS(CUresult, cuGetErrorString(CUresult error, const char **text),
        *text = error == CUDA_ERROR_OUT_OF_MEMORY ? "out of memory" : "an error")
ANSWERS(CUresult, cuModuleLoadData(CUmodule *module, const void *image), *module = SOMETHING)
ANSWERS(CUresult, cuModuleGetFunction(CUfunction *kernel, CUmodule module, const char *name), *kernel = SOMETHING)
ANSWERS(CUresult, cuFuncGetAttribute(int *value, CUfunction_attribute which, CUfunction kernel),
        *value = which == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK ? THREADS_PER_BLOCK : 0)
ANSWERS(CUresult, cuOccupancyMaxActiveClusters(int *count, CUfunction kernel, const CUlaunchConfig *launch),
        *count = BLOCKS_PER_MULTIPROCESSOR)
ANSWERS(CUresult, cuOccupancyMaxActiveBlocksPerMultiprocessor(int *count, CUfunction kernel, int threads, size_t bytes),
        *count = BLOCKS_PER_MULTIPROCESSOR)
DOES_NOTHING(cuInit)
DOES_NOTHING(cuCtxGetLimit)
DOES_NOTHING(cuCtxSetCurrent)
DOES_NOTHING(cuCtxSetLimit)
DOES_NOTHING(cuFuncSetAttribute)
DOES_NOTHING(cuFuncSetCacheConfig)
DOES_NOTHING(cuLaunchKernel)
DOES_NOTHING(cuLaunchKernelEx)
DOES_NOTHING(cuLaunchCooperativeKernel)
DOES_NOTHING(cuModuleUnload)

// NVML
//
// Before it maps memory, torch asks whether the card is part of a fabric of many. It is not.

struct fabric {
    unsigned version;
    unsigned char cluster[16];
    int status;
    unsigned clique;
    unsigned char state; // 0: not supported.
};

ANSWERS(int, nvmlDeviceGetGpuFabricInfoV(void *device, struct fabric *found), found->state = 0)
ANSWERS(int, nvmlDeviceGetCount_v2(unsigned *count), *count = 1)
ANSWERS(int, nvmlDeviceGetHandleByPciBusId_v2(const char *place, void **device), *device = SOMETHING)
ANSWERS(int, nvmlDeviceGetComputeRunningProcesses(void *device, unsigned *count, void *found), *count = 0)
ANSWERS(int, nvmlSystemGetCudaDriverVersion_v2(int *version), *version = CUDA_VERSION_SAID)
DOES_NOTHING(nvmlDeviceGetNvLinkRemoteDeviceType)
DOES_NOTHING(nvmlDeviceGetNvLinkRemotePciInfo_v2)
DOES_NOTHING(nvmlInit)
DOES_NOTHING(nvmlInit_v2)

// cuBLAS
//
// No product is computed. Its workspace is no business of this file: torch takes it from its own allocator.

ANSWERS(int, cublasCreate_v2(void **handle), *handle = SOMETHING)
ANSWERS(int, cublasGetMathMode(void *handle, int *mode), *mode = 0)
ANSWERS(int, cublasGetPointerMode_v2(void *handle, int *mode), *mode = 0)
DOES_NOTHING(cublasDestroy_v2)
DOES_NOTHING(cublasSetStream_v2)
DOES_NOTHING(cublasSetWorkspace_v2)
DOES_NOTHING(cublasSetMathMode)
DOES_NOTHING(cublasSetPointerMode_v2)
DOES_NOTHING(cublasGemmEx)
DOES_NOTHING(cublasGemmStridedBatchedEx)
DOES_NOTHING(cublasSgemm_v2)
DOES_NOTHING(cublasSgemmEx)
DOES_NOTHING(cublasSgemmStridedBatched)
DOES_NOTHING(cublasSgemv_v2)
DOES_NOTHING(cublasSdot_v2)
DOES_NOTHING(cublasDotEx)

ANSWERS(int, cublasLtMatmulDescCreate(void **description, int computed_in, int scaled_in), *description = SOMETHING)
ANSWERS(int, cublasLtMatmulPreferenceCreate(void **preference), *preference = SOMETHING)
ANSWERS(int, cublasLtMatrixLayoutCreate(void **layout, int type, uint64_t rows, uint64_t columns, int64_t stride),
        *layout = SOMETHING)
ANSWERS(int, cublasLtMatmulAlgoGetHeuristic(void *handle, void *product, void *a, void *b, void *c, void *d,
                                            void *preference, int wanted, void *found, int *count),
        *count = 1)
DOES_NOTHING(cublasLtMatmul)
DOES_NOTHING(cublasLtMatmulDescDestroy)
DOES_NOTHING(cublasLtMatmulDescSetAttribute)
DOES_NOTHING(cublasLtMatmulPreferenceDestroy)
DOES_NOTHING(cublasLtMatmulPreferenceSetAttribute)
DOES_NOTHING(cublasLtMatrixLayoutDestroy)
DOES_NOTHING(cublasLtMatrixLayoutSetAttribute)

// NVRTC
//
// What torch compiles as it runs is empty. torch opens libnvrtc.so.13 by that name, and finds the one beside itself
// unless a library of this name, its SONAME, is loaded already. Hence this one bears it.

ANSWERS(int, nvrtcCreateProgram(void **program, const char *source, const char *name, int count,
                                const char *const *headers, const char *const *names),
        *program = SOMETHING)
ANSWERS(int, nvrtcVersion(int *major, int *minor), *major = 13, *minor = 0)
ANSWERS(int, nvrtcGetCUBINSize(void *program, size_t *bytes), *bytes = 1)
ANSWERS(int, nvrtcGetPTXSize(void *program, size_t *bytes), *bytes = 1)
ANSWERS(int, nvrtcGetProgramLogSize(void *program, size_t *bytes), *bytes = 1)
ANSWERS(int, nvrtcGetLoweredName(void *program, const char *name, const char **lowered), *lowered = "kernel")
DOES_NOTHING(nvrtcAddNameExpression)
DOES_NOTHING(nvrtcCompileProgram)
DOES_NOTHING(nvrtcDestroyProgram)
DOES_NOTHING(nvrtcGetCUBIN)
DOES_NOTHING(nvrtcGetPTX)
DOES_NOTHING(nvrtcGetProgramLog)
