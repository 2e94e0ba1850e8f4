using System.Collections;
using System.Globalization;
using System.Reflection;
using System.Text.Json;
using YamlDotNet.Core;
using YamlDotNet.RepresentationModel;

namespace LongNet.Trainer.Configuration;

/// <summary>A configuration, or a part of one, as a tree of YAML.</summary>
internal static class YamlNodes
{
    /// <summary>Of a section, with a key for every property, or of a value.</summary>
    public static YamlNode Of(object? value)
    {
        switch (value)
        {
            case null:
                return new YamlScalarNode("auto");
            case string text:
                return new YamlScalarNode(text) { Style = ScalarStyle.DoubleQuoted };
            case bool flag:
                return new YamlScalarNode(flag ? "true" : "false");
            case double number:
                return new YamlScalarNode(number.ToString("R"));
            case Enum choice:
                return new YamlScalarNode(KeyName.OfValue(choice));
            case IFormattable number:
                return new YamlScalarNode(number.ToString(null, CultureInfo.InvariantCulture));
            case IEnumerable list:
                return new YamlSequenceNode(list.Cast<object>().Select(Of))
                {
                    Style = YamlDotNet.Core.Events.SequenceStyle.Flow,
                };
        }

        var mapping = new YamlMappingNode();
        foreach (PropertyInfo property in YamlBinder.Properties(value.GetType()))
        {
            // "auto" would be a text like any other.
            bool isAbsentText = property.PropertyType == typeof(string) && property.GetValue(value) is null;
            mapping.Add(
                KeyName.OfProperty(property.Name),
                isAbsentText ? new YamlScalarNode("null") : Of(property.GetValue(value))
            );
        }

        return mapping;
    }

    /// <summary>Of what was kept as JSON, key by key as it is.</summary>
    public static YamlNode Of(JsonElement value)
    {
        switch (value.ValueKind)
        {
            case JsonValueKind.Object:
                var mapping = new YamlMappingNode();
                foreach (JsonProperty property in value.EnumerateObject())
                    mapping.Children[new YamlScalarNode(property.Name)] = Of(property.Value);
                return mapping;
            case JsonValueKind.Array:
                return new YamlSequenceNode(value.EnumerateArray().Select(Of))
                {
                    Style = YamlDotNet.Core.Events.SequenceStyle.Flow,
                };
            case JsonValueKind.String:
                return new YamlScalarNode(value.GetString())
                {
                    Style = IsWord(value.GetString()!) ? ScalarStyle.Plain : ScalarStyle.DoubleQuoted,
                };
            default:
                return new YamlScalarNode(value.GetRawText());
        }

        // Such as the name of a choice. Other text keeps its quotes, as YAML might take it for something else.
        static bool IsWord(string text) =>
            text.Length > 0
            && text.All(char.IsAsciiLetterLower)
            && text is not ("null" or "true" or "false" or "yes" or "no" or "on" or "off" or "y" or "n");
    }
}
