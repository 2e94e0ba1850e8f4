using System.Text;

namespace LongNet.Core.Cuda;

/// <summary>The CUDA C of all kernels, which are compiled as one program.</summary>
internal static class KernelSource
{
    // The first has what the others share.
    private static readonly string[] Files = ["common.cu", "blocks.cu", "rotation.cu", "dropout.cu"];

    /// <summary>The files of the folder Kernels, one after the other.</summary>
    public static string Read()
    {
        var source = new StringBuilder();
        foreach (string file in Files)
        {
            string name = $"{typeof(KernelSource).Namespace}.Kernels.{file}";
            using Stream stream = typeof(KernelSource).Assembly.GetManifestResourceStream(name)
                ?? throw new InvalidOperationException($"The assembly has no resource {name}.");
            using var reader = new StreamReader(stream);
            source.AppendLine($"#line 1 \"{file}\"").AppendLine(reader.ReadToEnd());
        }

        return source.ToString();
    }
}
