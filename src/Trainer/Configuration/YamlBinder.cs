using System.Collections;
using System.Globalization;
using System.Reflection;
using System.Runtime.CompilerServices;
using YamlDotNet.RepresentationModel;

namespace LongNet.Trainer.Configuration;

/// <summary>
/// Binds YAML nodes to records strictly: unknown keys, wrong types and missing required keys are problems that name
/// where they stand.
/// </summary>
/// <param name="problems">Takes what is wrong.</param>
/// <param name="file">What the file is called in messages.</param>
/// <param name="where">File and line, or the option, that a node comes from.</param>
internal sealed class YamlBinder(ConfigurationProblems problems, string file, Func<YamlNode, string> where)
{
    /// <summary>The properties that keys bind to.</summary>
    public static IReadOnlyList<PropertyInfo> Properties(Type type) =>
        [.. type.GetProperties(BindingFlags.Public | BindingFlags.Instance).Where(property => property.CanWrite)];

    public static bool IsSection(Type type) =>
        type.IsClass && type != typeof(string) && type.Namespace == typeof(RunConfig).Namespace;

    /// <param name="type">A record of this namespace.</param>
    /// <param name="node">What the file gives for it; null where it is absent.</param>
    /// <param name="path">Dotted path with a trailing dot, or empty at the top.</param>
    /// <returns>The record, or null where a problem prevents it.</returns>
    public object? Section(Type type, YamlNode? node, string path)
    {
        var given = new Dictionary<string, YamlNode>();
        if (node is YamlMappingNode mapping)
        {
            foreach (var (keyNode, value) in mapping.Children)
                given[Name(keyNode)] = value;
            foreach (var (keyNode, _) in mapping.Children)
                CheckKnown(type, keyNode, path);
        }
        else if (node is not null && !IsNull(node))
        {
            IEnumerable<string> keys = Properties(type).Take(3).Select(property => KeyName.OfProperty(property.Name));
            problems.Add(
                $"{where(node)}: {path.TrimEnd('.')} must be a group of keys, such as {string.Join(", ", keys)}."
            );
            return null;
        }

        object section = Activator.CreateInstance(type)!;
        bool complete = true;
        foreach (PropertyInfo property in Properties(type))
        {
            string key = path + KeyName.OfProperty(property.Name);
            bool required = property.GetCustomAttribute<RequiredMemberAttribute>() is not null;
            given.TryGetValue(KeyName.OfProperty(property.Name), out YamlNode? value);
            if (value is null || IsNull(value))
            {
                if (required && IsSection(property.PropertyType))
                {
                    complete &= Section(property.PropertyType, null, key + ".") is not null;
                }
                else if (required)
                {
                    problems.Add($"{(node is null ? file : where(node))}: the key \"{key}\" is required and missing.");
                    complete = false;
                }

                continue;
            }

            if (TryBind(property.PropertyType, value, key, out object? bound))
                property.SetValue(section, bound);
            else
                complete = false;
        }

        return complete ? section : null;
    }

    // YAML allows lists and groups for keys; here they are unknown keys like any other.
    private static string Name(YamlNode key) => key is YamlScalarNode { Value: { } name } ? name : $"{key}";

    private static bool IsNull(YamlNode node) =>
        node is YamlScalarNode { Style: YamlDotNet.Core.ScalarStyle.Plain, Value: "" or "~" or "null" };

    private void CheckKnown(Type type, YamlNode keyNode, string path)
    {
        string key = Name(keyNode);
        string[] known = [.. Properties(type).Select(property => KeyName.OfProperty(property.Name))];
        if (known.Contains(key))
            return;
        string? nearest = ConfigurationProblems.Nearest(key, known);
        problems.Add(
            $"{where(keyNode)}: unknown key \"{path}{key}\"; "
                + (
                    nearest is null
                        ? $"the keys here are {string.Join(", ", known)}."
                        : $"did you mean \"{path}{nearest}\"?"
                )
        );
    }

    /// <returns>False where a problem was added.</returns>
    private bool TryBind(Type type, YamlNode node, string key, out object? value)
    {
        value = null;
        if (IsSection(type))
        {
            value = Section(type, node, key + ".");
            return value is not null;
        }

        Type? nullable = Nullable.GetUnderlyingType(type);
        if (nullable is not null && node is YamlScalarNode { Value: "auto" })
            return true;
        Type target = nullable ?? type;
        if (target.IsGenericType)
            return TryList(target.GetGenericArguments()[0], node, key, out value);
        if (node is YamlScalarNode { Value: { } text } && Scalar(target, text) is { } scalar)
        {
            value = scalar;
            return true;
        }

        problems.Add(
            $"{where(node)}: {key} is {Describe(node)}, but must be "
                + $"{Expected(target)}{(nullable is null ? "" : " or auto")}."
        );
        return false;
    }

    private bool TryList(Type element, YamlNode node, string key, out object? value)
    {
        // One value stands for a list of one.
        IEnumerable<YamlNode> items = node is YamlSequenceNode sequence ? sequence.Children : [node];
        var list = (IList)Activator.CreateInstance(typeof(List<>).MakeGenericType(element))!;
        bool complete = true;
        foreach (YamlNode item in items)
        {
            if (TryBind(element, item, key, out object? bound))
                list.Add(bound);
            else
                complete = false;
        }

        value = list;
        return complete;
    }

    // Null where the text is none of the type.
    private static object? Scalar(Type type, string text)
    {
        if (type == typeof(string))
            return text.Length > 0 ? text : null;
        if (type == typeof(long))
            return long.TryParse(text, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out long value)
                ? value
                : null;
        if (type == typeof(int))
            return int.TryParse(text, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out int value)
                ? value
                : null;
        if (type == typeof(double))
        {
            bool isNumber = double.TryParse(text, NumberStyles.Float, CultureInfo.InvariantCulture, out double value);
            return isNumber && double.IsFinite(value) ? value : null;
        }

        if (type == typeof(bool))
            return text is "true" or "false" ? text == "true" : null;
        string? choice = type.IsEnum
            ? Enum.GetNames(type).FirstOrDefault(name => name.Equals(text, StringComparison.OrdinalIgnoreCase))
            : null;
        return choice is null ? null : Enum.Parse(type, choice);
    }

    private static string Describe(YamlNode node) =>
        node switch
        {
            YamlScalarNode scalar => $"\"{scalar.Value}\"",
            YamlSequenceNode => "a list",
            _ => "a group of keys",
        };

    private static string Expected(Type type) =>
        type == typeof(string) ? "text"
        : type == typeof(long) || type == typeof(int) ? "a whole number"
        : type == typeof(double) ? "a number"
        : type == typeof(bool) ? "true or false"
        : type.IsEnum ? string.Join(" or ", KeyName.OfValues(type))
        : "a list";
}
