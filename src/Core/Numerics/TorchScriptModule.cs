using static TorchSharp.torch;

namespace LongNet.Core.Numerics;

/// <summary>
/// Operators of libtorch that TorchSharp has no method for, reached through TorchScript. An unknown operator or
/// function name ends the process, so every script is compiled in one place and stands behind typed methods.
/// </summary>
internal sealed class TorchScriptModule
{
    private readonly Lazy<jit.CompilationUnit> unit;

    /// <param name="source">TorchScript function definitions. Compiled on first use, as libtorch may not be loaded
    /// yet.</param>
    public TorchScriptModule(string source) => unit = new Lazy<jit.CompilationUnit>(() => jit.compile(source + "\n"));

    /// <summary>Compiles the script now, if it was not yet. A script that does not compile ends the process.</summary>
    public void Compile() => _ = unit.Value;

    /// <summary>Calls a function of the script that returns several tensors.</summary>
    /// <param name="function">Its name; must be defined in the source.</param>
    /// <param name="arguments">As <see cref="Invoke"/> takes them.</param>
    /// <returns>The tensors, in order. Owned by the caller.</returns>
    public Tensor[] InvokeTensors(string function, params object?[] arguments) =>
        Invoke(function, arguments) switch
        {
            Tensor[] tensors => tensors,
            ValueTuple<Tensor, Tensor> pair => [pair.Item1, pair.Item2],
            ValueTuple<Tensor, Tensor, Tensor> triple => [triple.Item1, triple.Item2, triple.Item3],
            object?[] values => [.. values.Cast<Tensor>()],
            var other => throw new InvalidOperationException(
                $"The function {function} of a script returned {other?.GetType().Name ?? "nothing"}, not tensors."
            ),
        };

    /// <summary>Calls a function of the script.</summary>
    /// <param name="function">Its name; must be defined in the source.</param>
    /// <param name="arguments">Tensors, lists of tensors, booleans, or null. Never plain numbers: see
    /// <see cref="Scalars"/>.</param>
    public object? Invoke(string function, params object?[] arguments)
    {
        object? result = unit.Value.invoke(function, arguments!);
        GC.KeepAlive(arguments);
        return result;
    }
}
