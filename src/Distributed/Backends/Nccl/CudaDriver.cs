using System.Runtime.InteropServices;

namespace LongNet.Distributed.Backends.Nccl;

/// <summary>Streams, events and contexts of the NVIDIA driver, which TorchSharp does not offer.</summary>
internal static unsafe partial class CudaDriver
{
    /// <summary>The legacy default stream, on which TorchSharp computes.</summary>
    public const nint DefaultStream = 0;

    /// <summary>Bytes of a GPU's UUID.</summary>
    public const int UuidLength = 16;

    // CUDA_SUCCESS, CUDA_ERROR_NOT_READY, CU_STREAM_NON_BLOCKING and CU_EVENT_DISABLE_TIMING of cuda.h.
    private const int Success = 0,
        NotReady = 600;
    private const uint NonBlocking = 1,
        DisableTiming = 2;
    private const string Driver = "libcuda.so.1";

    /// <summary>
    /// The context in which libtorch computes on a GPU. Kept until the process ends, as libtorch keeps it.
    /// </summary>
    /// <param name="device">As in <c>cuda:index</c>.</param>
    public static nint RetainContext(int device)
    {
        nint context;
        Check(PrimaryContextRetain(&context, Device(device)), "cuDevicePrimaryCtxRetain");
        return context;
    }

    /// <summary>Identifies a GPU among all, whatever index each process gives it.</summary>
    public static void ReadUuid(int device, Span<byte> uuid)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(uuid.Length, UuidLength);
        fixed (byte* bytes = uuid)
            Check(DeviceGetUuid(bytes, Device(device)), "cuDeviceGetUuid");
    }

    public static void SetCurrent(nint context) => Check(ContextSetCurrent(context), "cuCtxSetCurrent");

    /// <summary>Makes a context current on this thread until the result is disposed.</summary>
    public static ContextScope Enter(nint context)
    {
        Check(ContextPushCurrent(context), "cuCtxPushCurrent");
        return default;
    }

    /// <summary>
    /// A stream that does not wait for the default stream, and that the default stream does not wait for. Its kernels
    /// come before those of other streams that wait for a multiprocessor.
    /// </summary>
    public static nint CreateStream()
    {
        int least,
            greatest;
        Check(ContextGetStreamPriorityRange(&least, &greatest), "cuCtxGetStreamPriorityRange");
        nint stream;
        Check(StreamCreateWithPriority(&stream, NonBlocking, greatest), "cuStreamCreateWithPriority");
        return stream;
    }

    public static void DestroyStream(nint stream) => Check(StreamDestroy(stream), "cuStreamDestroy");

    /// <summary>Records an event after all work that is on a stream now.</summary>
    public static nint Record(nint stream) => Record(stream, DisableTiming);

    /// <summary>Likewise, for <see cref="Seconds"/>.</summary>
    public static nint RecordTimed(nint stream) => Record(stream, 0);

    /// <summary>The time on the GPU from one timed event to another, which both have passed.</summary>
    public static double Seconds(nint first, nint last)
    {
        float milliseconds;
        Check(EventElapsedTime(&milliseconds, first, last), "cuEventElapsedTime");
        return milliseconds / 1e3;
    }

    private static nint Record(nint stream, uint flags)
    {
        nint mark;
        Check(EventCreate(&mark, flags), "cuEventCreate");
        Check(EventRecord(mark, stream), "cuEventRecord");
        return mark;
    }

    /// <summary>Makes later work on a stream wait for an event. Returns at once.</summary>
    public static void Wait(nint stream, nint mark) => Check(StreamWaitEvent(stream, mark, 0), "cuStreamWaitEvent");

    public static bool HasPassed(nint mark)
    {
        int code = EventQuery(mark);
        if (code != NotReady)
            Check(code, "cuEventQuery");
        return code == Success;
    }

    public static void Forget(nint mark) => Check(EventDestroy(mark), "cuEventDestroy");

    private static int Device(int index)
    {
        int device;
        Check(DeviceGet(&device, index), "cuDeviceGet");
        return device;
    }

    private static void Check(int code, string function)
    {
        if (code == Success)
            return;
        byte* text;
        string reason =
            GetErrorString(code, &text) == Success ? Marshal.PtrToStringUTF8((nint)text)! : "an unknown error";
        throw new NcclException($"{function} of the NVIDIA driver failed with code {code}: {reason}.");
    }

    /// <summary>Restores the thread's former context.</summary>
    public readonly ref struct ContextScope
    {
        // A push has succeeded before, so if the pop fails, an earlier call has failed and has thrown.
        public void Dispose()
        {
            nint context;
            _ = ContextPopCurrent(&context);
        }
    }

    [LibraryImport(Driver, EntryPoint = "cuGetErrorString")]
    private static partial int GetErrorString(int code, byte** text);

    [LibraryImport(Driver, EntryPoint = "cuDeviceGet")]
    private static partial int DeviceGet(int* device, int index);

    [LibraryImport(Driver, EntryPoint = "cuDeviceGetUuid_v2")]
    private static partial int DeviceGetUuid(byte* uuid, int device);

    [LibraryImport(Driver, EntryPoint = "cuDevicePrimaryCtxRetain")]
    private static partial int PrimaryContextRetain(nint* context, int device);

    [LibraryImport(Driver, EntryPoint = "cuCtxSetCurrent")]
    private static partial int ContextSetCurrent(nint context);

    [LibraryImport(Driver, EntryPoint = "cuCtxPushCurrent_v2")]
    private static partial int ContextPushCurrent(nint context);

    [LibraryImport(Driver, EntryPoint = "cuCtxPopCurrent_v2")]
    private static partial int ContextPopCurrent(nint* context);

    [LibraryImport(Driver, EntryPoint = "cuCtxGetStreamPriorityRange")]
    private static partial int ContextGetStreamPriorityRange(int* least, int* greatest);

    [LibraryImport(Driver, EntryPoint = "cuStreamCreateWithPriority")]
    private static partial int StreamCreateWithPriority(nint* stream, uint flags, int priority);

    [LibraryImport(Driver, EntryPoint = "cuStreamDestroy_v2")]
    private static partial int StreamDestroy(nint stream);

    [LibraryImport(Driver, EntryPoint = "cuStreamWaitEvent")]
    private static partial int StreamWaitEvent(nint stream, nint mark, uint flags);

    [LibraryImport(Driver, EntryPoint = "cuEventCreate")]
    private static partial int EventCreate(nint* mark, uint flags);

    [LibraryImport(Driver, EntryPoint = "cuEventRecord")]
    private static partial int EventRecord(nint mark, nint stream);

    [LibraryImport(Driver, EntryPoint = "cuEventQuery")]
    private static partial int EventQuery(nint mark);

    [LibraryImport(Driver, EntryPoint = "cuEventElapsedTime")]
    private static partial int EventElapsedTime(float* milliseconds, nint first, nint last);

    [LibraryImport(Driver, EntryPoint = "cuEventDestroy_v2")]
    private static partial int EventDestroy(nint mark);
}
