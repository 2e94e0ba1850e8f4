using static TorchSharp.torch;

namespace LongNet.Core.Numerics;

/// <summary>
/// Operators of libtorch that TorchSharp has no method for, reached through TorchScript. An unknown operator or function
/// name ends the process, so every script is compiled in one place and stands behind typed methods.
/// </summary>
internal sealed class TorchScriptModule
{
    private readonly Lazy<jit.CompilationUnit> unit;

    /// <param name="source">TorchScript function definitions. Compiled on first use, as libtorch may not be loaded yet.</param>
    public TorchScriptModule(string source) => unit = new Lazy<jit.CompilationUnit>(() => jit.compile(source + "\n"));

    /// <summary>Calls a function of the script.</summary>
    /// <param name="function">Its name; must be defined in the source.</param>
    /// <param name="arguments">Tensors, lists of tensors, booleans, or null. Never plain numbers: see <see cref="Scalars"/>.</param>
    public object? Invoke(string function, params object?[] arguments)
    {
        object? result = unit.Value.invoke(function, arguments!);
        GC.KeepAlive(arguments);
        return result;
    }
}
